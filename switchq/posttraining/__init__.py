"""What is done with a model after training: sensitivities, the search for mixed precision, reports."""
