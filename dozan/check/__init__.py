"""What is wrong with rows, before anything is trained on them."""
