(component (core module {{repeat 100000: (import "" "{n}" (func))}}))
