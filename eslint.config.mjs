// What `make lint` holds web/ to: ESLint's own rules, so that nothing has to be installed beside it.

const browser = ["alert", "confirm", "console", "document", "Event", "EventTarget", "fetch", "navigator", "prompt", "queueMicrotask", "setTimeout", "URL", "window", "XMLHttpRequest"];

export default [
  {
    files: ["web/**/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "module",
      globals: Object.fromEntries(browser.map((name) => [name, "readonly"])),
    },
    rules: {
      "consistent-return": "error",
      eqeqeq: ["error", "always", { null: "ignore" }],
      "no-shadow": "error",
      "no-undef": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-use-before-define": ["error", { functions: false, variables: false }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
    },
  },
];
