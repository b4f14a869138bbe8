"""Networks: backbones, feature pyramid, region proposals, RoI heads and the meta-architecture that joins them."""
