"""Names and geometry: what each model family calls its tensors, and what they mean."""
