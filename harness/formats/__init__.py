"""Number formats of quantized checkpoints: codecs, what is stored in which, and the names that programs give tensors.

numpy and ml_dtypes only (``gguf`` is imported when a GGUF file is read). Knows no file, no source and no check.
"""
