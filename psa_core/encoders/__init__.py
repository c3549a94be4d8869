"""Profile encoders: objects with `id`, `dim` and `encode(profiles) -> UserEmbedding`."""
