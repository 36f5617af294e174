"""The part of the sglang backend that runs under the runtime's own interpreter. See ``main``."""
