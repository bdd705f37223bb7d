"""The human study of section 4.2.2: do people find the image region that drove a neuron, with SPADE and without?"""
