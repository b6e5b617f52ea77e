"""Large-scale unsupervised semantic segmentation: from a folder of unlabelled images to pixel masks of discovered categories."""

__version__ = "0.1.0"
