(component (core module (func $f) {{repeat 100000: (export "e{n}" (func $f))}}))
