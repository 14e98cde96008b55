"""rsdata: raw remote-sensing annotation dumps to image-caption tables."""

__version__ = "0.7.0"
