"""What an artist wants some viewers not to see, and pairs of prompts that show it and do not."""
