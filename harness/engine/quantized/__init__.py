"""Read ModelOpt FP8 and NVFP4 checkpoints into a diffusers Wan transformer, multiply them packed, write receipts."""
