"""ModelOpt FP8 and NVFP4 checkpoints in a diffusers Wan transformer: read, held packed, multiplied, receipted."""
