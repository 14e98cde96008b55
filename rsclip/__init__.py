"""rsclip: train and evaluate CLIP models on rsdata tables."""
