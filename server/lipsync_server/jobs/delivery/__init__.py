"""Delivery of the finished video: the copy to the owner's folder or bucket, and callbacks."""
