"""The model: features, convolution, recurrent stack, CTC head."""
