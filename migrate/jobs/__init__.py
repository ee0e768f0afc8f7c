"""One run or one verification, from its checks to its exit code. What is said of it is `report`'s and `cli`'s business."""
