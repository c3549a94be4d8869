"""What talks to ComfyUI's insides."""
