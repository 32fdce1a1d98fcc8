"""Cases, their checks and splits, the preprocessing cache, and patches on their way to the network.

The order is: `cases` finds the cases of a data set, `volumes` reads them, `preprocess` caches them,
`loader` cuts patches in the order of `sampling`, `feed` brings them to the device and `augment`
changes them there. `phantom` makes cases where there are none.
"""
