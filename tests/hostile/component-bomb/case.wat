(component
  (component $a (core module $m) {{repeat 10: (core instance (instantiate $m))}})
  (component $b (alias outer 1 $a (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (component $c (alias outer 1 $b (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (component $d (alias outer 1 $c (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (component $e (alias outer 1 $d (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (component $f (alias outer 1 $e (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (component $g (alias outer 1 $f (component $x)) {{repeat 10: (instance (instantiate $x))}})
  (instance (instantiate $g)))
