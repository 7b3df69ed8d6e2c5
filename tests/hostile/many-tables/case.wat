;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    {{repeat 7: (table $t{n} 0 funcref)}}
    (func (export "handle") (param i32) (result i32)
      {{repeat 7: (drop (table.grow $t{n} (ref.null func) (i32.const 20000)))}}
      unreachable)
  )
  (core instance $m (instantiate $main))
  {{guest}})
