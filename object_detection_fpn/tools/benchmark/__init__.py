"""`odfpn benchmark`: exported models beside each other."""
