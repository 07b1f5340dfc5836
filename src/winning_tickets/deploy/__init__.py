"""Export formats, mask files of the released code, speed and size, verification."""
