;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func $start unreachable)
    (start $start)
    (func (export "handle") (param i32) (result i32) (i32.const 8))
  )
  (core instance $m (instantiate $main))
  {{guest}})
