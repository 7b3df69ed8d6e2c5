(component (core module (func {{repeat 1000000: (drop (i32.const {n}))}})))
