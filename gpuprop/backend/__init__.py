"""Where arrays live and how kernels run; knows nothing of layers."""
