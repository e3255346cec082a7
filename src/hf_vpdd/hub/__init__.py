"""To the Hugging Face Hub and back: what a folder holds, its card, and the push."""
