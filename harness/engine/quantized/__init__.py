"""Read quantized checkpoints into a diffusers Wan transformer, multiply them packed, write receipts."""
