"""The pseudo-label data set: `PseudoLabels` (torch), `LabelStore` (the label maps), and what makes and edits them."""
