(component
  (component $a (core module $m) {{repeat 10: (core instance (instantiate $m))}})
  (component $b (import "x" (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (instance (instantiate $b (with "x" (component $a)))))
