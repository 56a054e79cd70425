"""Records: what triggers have recorded while a network trains."""
