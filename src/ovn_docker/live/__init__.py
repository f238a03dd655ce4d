"""The page of ``ovn-docker graph --serve``: one reader, and what browsers get of it."""
