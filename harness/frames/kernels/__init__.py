"""The pass over a pair of clips, three times: fused for the CPU, in torch for the GPU, in scikit-image as reference."""
