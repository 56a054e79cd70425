"""irgrow: a compiler for neural networks that change shape while they learn."""
