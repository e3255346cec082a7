"""Networks only: tensors in, tensors out. Nothing here knows of files, simulators or robots."""
