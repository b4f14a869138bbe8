"""The parts of `odfpn predict`: what is read, image ids, result files, drawings."""
