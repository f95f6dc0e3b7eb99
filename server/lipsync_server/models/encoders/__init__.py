"""Text, picture and speech encoders."""
