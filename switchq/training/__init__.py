"""Training: a module that carries out plans of passes, and the callbacks that write them."""
