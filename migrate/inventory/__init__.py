"""The inputs of a plan: the directory of users and the inventories of the stores, checked and turned into Parquet on scratch."""
