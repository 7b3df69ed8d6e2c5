(component
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $guest (export "handle" (func $f)))
  (export "sandbar:handler/guest@0.1.0" (instance $guest)))
