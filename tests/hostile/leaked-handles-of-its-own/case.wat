;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (type $thing (resource (rep i32)))
  (core func $new (canon resource.new $thing))
  (core module $main
    (import "own" "new" (func $new (param i32) (result i32)))
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (loop (drop (call $new (i32.const 1))) (br 0)) unreachable)
  )
  (core instance $m (instantiate $main (with "own" (instance (export "new" (func $new))))))
  {{guest}})
