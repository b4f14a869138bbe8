"""`odfpn context-features`: gives every record the memory bank that Context R-CNN attends to."""
