"""Data: corpora as lazy cuts, augmentation, and batches of padded waveforms."""
