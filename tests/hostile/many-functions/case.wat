(component (core module {{repeat 300000: (func)}}))
