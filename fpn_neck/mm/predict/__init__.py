"""From a checkpoint to a predictor, whatever the model is."""
