"""What a model predicts for a photo: arrays, pictures and files, the same for all models."""
