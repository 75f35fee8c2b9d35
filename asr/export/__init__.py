"""Trained models for other runtimes: ONNX Runtime, and through it sherpa-onnx."""
