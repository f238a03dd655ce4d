"""Pictures of the cluster: a layout, and its forms as SVG, HTML and Graphviz."""
