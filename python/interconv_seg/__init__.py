"""interconv_seg: segmentation networks on InterConv layers."""
