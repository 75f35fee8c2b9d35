"""The second network: the acoustic model under ONNX Runtime, and a front end in numpy. Nothing here needs torch."""
