"""From the published files to models on a device."""
