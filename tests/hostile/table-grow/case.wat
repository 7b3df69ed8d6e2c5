;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (table $t 0 funcref)
    (func (export "handle") (param i32) (result i32)
      (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1)) (i32.const -1)))) unreachable)
  )
  (core instance $m (instantiate $main))
  {{guest}})
