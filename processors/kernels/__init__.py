"""What attention kernels share: packages, layout, masks, scale, and the proof of those that a package brings."""
